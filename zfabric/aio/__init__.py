"""The asynchronous SDK: a fabric, its producers and its consumers."""
