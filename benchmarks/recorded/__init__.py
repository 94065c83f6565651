"""Readers of public tables of recorded replies: each makes worlds that `agentgraph.recording` can read."""
