"""Running a model: requests in, completions out.

The path of one request, in the engine's own continuous batching:

1. `continuous.ContinuousEngine.submit` hands it to `frontend`, which tokenizes and checks it, makes
   a `sequence.Sequence` of it, posts that to the engine's thread, and waits for its future.
2. There `request_queue` takes it through three places: `encode_queue` until its media have feature
   rows in `encoder_cache` (filled by the thread of `encoder`), then `scheduler` until KV pages are
   free, then it runs.
3. `library_loop`, a third thread, is transformers' continuous batching: `step_inputs` builds each
   step, `attention` and `cpu_attention` attend over KV pages, `sampling` chooses the tokens.
4. Each token comes to the sequence's `Attempt`, which ends it (`stopping`); `request_queue.finish`
   frees what it held, and `frontend.complete` resolves the future. `recovery` decides how to go on
   when the loop died.

Around it: `backend` and `replica` load a model and plan its `memory`; `registry` holds every engine
by name (`continuous`, `static`, `vllm/`); `fallback` asks again when an answer is a loop or empty.
"""
