"""Running a model: requests in, completions out.

The path of one request, in the engine's own continuous batching:

1. `continuous.ContinuousEngine.submit` hands it to `frontend`, which tokenizes and checks it, makes
   a `sequence.Sequence` of it, hands that to the engine's thread, and waits for its future.
2. The engine's thread takes one step after another (`continuous.ContinuousEngine._step`):
   `scheduler` chooses who computes how many tokens, by the pages of `kv_cache` and the media of
   `encoder_cache`, which are encoded between two steps; `model_runner` runs the decoder over these
   tokens, with `attention` over KV pages; `sampling` chooses the next tokens.
3. Each token comes to the sequence's `Attempt`, which ends it (`stopping`); then the scheduler
   frees what it held, and `frontend.complete` resolves the future. `recovery` decides how to go on
   when a step failed.

Around it: `backend` and `replica` load a model and plan its `memory`; `registry` holds every engine
by name (`continuous`, `vllm/`); `fallback` asks again when an answer is a loop or empty.
"""
