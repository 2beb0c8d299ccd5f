"""Streaming from a thread: the thread runs in a copy of the context, so the generation stays a child of the request."""

import contextvars
import threading

from transformers import TextIteratorStreamer

import cutaway
from cutaway import smollm2

model, tokenizer = smollm2.load()

cutaway.configure(service_name="streaming", capture="text")  # the streamer brings the tokenizer
cutaway.instrument()


@cutaway.trace
def stream(question: str):
    """A generator function: its span lasts until the last piece is taken."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {**inputs, "streamer": streamer, "max_new_tokens": 32, "do_sample": False}
    worker = threading.Thread(target=contextvars.copy_context().run, args=(model.generate,), kwargs=options)
    worker.start()
    yield from streamer
    worker.join()


for piece in stream("Tell me about the sea in one sentence."):
    print(piece, end="", flush=True)
print()
cutaway.shutdown()
