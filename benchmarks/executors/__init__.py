"""What the executor's benchmark is made of: a load with known limits, rivals that run the same load, and servers."""
