"""Rules on what files are said to be."""
