"""Search for the collaboration graph of language models that answers best within a budget."""
