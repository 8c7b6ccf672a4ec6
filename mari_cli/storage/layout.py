"""Names of the files that runs and sweeps are made of."""

RUN, CONFIG, METRICS, RESULT, STATE = "run.json", "config.yaml", "metrics.jsonl", "result.json", "state"
"""Names inside a run directory; the state to resume from is removed when the run is finished."""
SWEEP = "sweep.json"
"""What makes a directory a sweep (launch/saved_sweep.py)."""
MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
"""The hashes of a finished run's files with all else that can be shown of it (storage/manifest.py), and its
signature where a key was given."""
INPUTS = "inputs.json"
"""What the run was begun with (begun.py): in the directory from its first moment on, and never changed."""
