"""The models: encoders that turn media into feature rows, and one decoder that reads ids."""
