"""What a decoding step costs, beside others on the same inputs: cpu, gpu, and the report of both."""
