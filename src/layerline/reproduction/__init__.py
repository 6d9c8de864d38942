"""Running the cells of a paper's tables, and setting what they give beside its numbers."""
