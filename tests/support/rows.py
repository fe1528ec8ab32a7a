"""Questions as people write them, and a folder of such questions."""

import json

GOOD = {"question": "What is 1 + 1?", "subject": "sums", "choices": ["1", "2"], "answer": 1}
THREE = {"question": "What is 2 + 1?", "subject": "sums", "choices": ["1", "2", "3"], "answer": 2}


def write(folder, rows, split="test"):
    lines = [json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
