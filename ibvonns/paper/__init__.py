"""The paper's experiments: its studies, what noise leaves, the scoreboard and rivals."""
