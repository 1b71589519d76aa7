"""Child processes: long-lived ones that exchange typed messages, and one-shot jobs with limited resources."""
