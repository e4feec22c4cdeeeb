"""Who lends the machines. `base.py` tells what a provider is, `known.py` which there are."""
