"""The history study: what thousands of past events cost and bring."""
