"""Models and tokenizers, from a hub, a directory, a GGUF file or a configuration."""
