"""The rules of the house, held by tests: who may import whom, what is packaged, what the pages point to."""
