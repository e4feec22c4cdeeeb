"""Documentation for people and programs, and sample files to try the API with. Nothing here needs a key."""
