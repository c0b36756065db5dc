"""What tools/bench is made of; its processes are started as ``python -m benchmark.…`` with tools/ on the path."""
