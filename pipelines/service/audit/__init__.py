"""The audit: who asked for what and what became of it, in chains of lines that show each change."""
