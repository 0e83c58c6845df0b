"""Phi-4-multimodal: SigLIP tower, conformer and decoder, with one LoRA adapter per modality."""
