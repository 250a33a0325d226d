"""What a program costs before it runs: operations, memory, collectives and cycles that compilers estimate."""
