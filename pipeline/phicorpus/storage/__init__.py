"""Storage: open an asset's URI safely, create a file of the output if it is absent."""
