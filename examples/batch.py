"""A batch of prompts of unequal length: one span, with exact counts and signals for every row, padding left out."""

import cutaway
from cutaway import smollm2

model, tokenizer = smollm2.load()

cutaway.configure(service_name="batch", tokenizer=tokenizer)  # capture stays at "ids": no text leaves this process
cutaway.instrument()

prompts = ["The capital of France is", "Two plus two is", "Once upon a time, in a village by the sea, there lived"]
inputs = tokenizer(prompts, return_tensors="pt", padding=True)
with cutaway.span("complete prompts", {"prompts": len(prompts)}):
    outputs = model.generate(**inputs, max_new_tokens=16, do_sample=False)

for text in tokenizer.batch_decode(outputs, skip_special_tokens=True):
    print(text)
cutaway.shutdown()
