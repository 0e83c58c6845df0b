"""The text models of type `phi3`: Phi-3-mini and Phi-4-mini. A decoder, and two chat formats."""
