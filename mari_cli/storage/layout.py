"""Names of the files in run and sweep directories."""

RUN, CONFIG, METRICS, RESULT, STATE = "run.json", "config.yaml", "metrics.jsonl", "result.json", "state"
"""Names in a run directory. STATE, from which a run resumes, is removed when the run is finished."""
SWEEP = "sweep.json"
"""The file that makes a directory a sweep (launch/saved_sweep.py)."""
CHECKPOINT = "checkpoint"
"""The model that a run made, as `from_pretrained` reads it; or adapters."""
TRIALS = "trials.json"
"""In the directory of a search: the settings and the outcome of each trial of every finished round."""
MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
"""The manifest of a finished run (storage/manifest.py), and its signature if the user gave a key."""
INPUTS = "inputs.json"
"""The inputs of a run (begun.py). The file appears with the directory and never changes."""
REQUESTS = "requests.json"
"""In a run of several requests: the id of each, its run inside this one, and the hashes of its records."""
CACHED = ("answers", "scores", "measured", "benchmarks", "audit",
          "alternates", "context", "gradnorms", "models", "reference", "support")  # fmt: skip
"""The folders of a cache."""
