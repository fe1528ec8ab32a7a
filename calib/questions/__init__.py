"""What is asked: multiple-choice questions, checked row by row, and the prompts that put them."""
