"""The machine: facts about the board, board profiles, the heap."""
