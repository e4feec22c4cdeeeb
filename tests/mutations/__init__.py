"""Mutation tests: each mutation removes one promise of the product, and the tests must notice."""
