"""TOFU's own paraphrased questions, as `audit.paraphrases` reads them.

python experiments/audit/tofu_paraphrases.py forget10_perturbed.json > paraphrases.jsonl
"""

import json
import sys
from pathlib import Path

for line in Path(sys.argv[1]).read_text().splitlines():
    record = json.loads(line)
    other = {"prompt": record["question"], "paraphrases": [record["paraphrased_question"]]}
    print(json.dumps(other))
