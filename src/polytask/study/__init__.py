"""Plan the arms, run them, read them, advise."""
