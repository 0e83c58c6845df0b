"""vLLM as a second engine: our encoders and prompts, its decoder, in processes of its own.

An extra, in an environment of its own (constraints-vllm.txt): vLLM and this project pin different
versions of transformers. vLLM is given one thing to run, the text decoder that all Phi models
share, with adapters merged by our loader; media reach it as the embeddings that our encoders made.
So none of its own Phi classes with their vision towers, adapters and preprocessors is used, nothing
is downloaded and no remote code is run.
"""
