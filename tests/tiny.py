"""A run of seconds, as the arguments a user would give."""

TINY = [
    "model.architecture.n_layer=1",
    "model.architecture.n_embd=32",
    "model.tokenizer_vocab_size=512",
    "forget.people=2",
    "retain.people=6",
    "holdout.people=2",
    "finetune.epochs=2",
    "finetune.lr=3e-3",
    "train.steps=4",
    "train.evaluate_every=2",
    "train.forget_batch=4",
    "train.retain_batch=4",
    "metrics=fast",
    "metrics.bootstrap=20",
]
