"""questions"""

LETTERS = "ABCDEFGHIJ"


def format_subject(subject):
    return subject.replace("_", " ")


def format_question(row):
    header = f"The following are multiple choice questions (with answers) about {format_subject(row['subject'])}.\n\n"
    options = "".join(f"{LETTERS[i]}. {c}\n" for i, c in enumerate(row["choices"]))
    return f"{header}{row['question']}\n{options}Answer:"


def format_open_question(row):
    return f"The following are questions (with answers) about {format_subject(row['subject'])}.\n\n{row['question']}\nAnswer:"
