"""What a job writes, held by value: a change of its inside must leave all of it as it is."""
