"""One decorator and one call: trace a question to a model. Needs a collector: `cutaway serve --data ./traces`."""

import cutaway
from cutaway import smollm2

model, tokenizer = smollm2.load()  # your own AutoModelForCausalLM and AutoTokenizer go here

cutaway.configure(service_name="quickstart", capture="text", tokenizer=tokenizer)
cutaway.instrument()


@cutaway.trace
def answer(question: str) -> str:
    """The span `answer` becomes the parent of the span of the generation inside."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


print(answer("What is the capital of France?"))
cutaway.shutdown()  # sends what is queued
