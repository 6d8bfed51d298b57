"""What a network costs where it is used: operations, latency, throughput, memory, energy and Dice, by runtime."""
