"""What is measured: each module serves the same three-call turn; `catalog` says how to start and ask each."""
