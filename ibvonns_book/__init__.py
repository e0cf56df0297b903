"""What chapters of the book ask for beside the method and the paper's experiments."""
