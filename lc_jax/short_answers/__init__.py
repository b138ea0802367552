"""Short answers by rule: matching with aliases, statements of confidence written and read. Text alone, no model.

`matching` decides whether two answers are the same, `probabilities` reads a number or a word of probability, `answers`
says what a short answer is, `grammar` has the forms of statements, and `statements` writes the consensus of several
samples and reads answers with their probabilities out of a short text.
"""
