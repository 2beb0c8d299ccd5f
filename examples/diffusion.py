"""Trace an image from its noise: the time of every step, and how large its latents are and how much they change."""

import string

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import cutaway

cutaway.configure(service_name="diffusion", capture="text")
cutaway.instrument()


def tiny_pipeline() -> StableDiffusionPipeline:
    """Small random weights, to need no download: your own StableDiffusionPipeline.from_pretrained(...) goes here."""
    torch.manual_seed(0)
    letters = string.ascii_lowercase
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextConfig(vocab_size=len(pieces), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                          max_position_embeddings=24, bos_token_id=52, eos_token_id=53, pad_token_id=53)
    return StableDiffusionPipeline(
        tokenizer=CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=24),
        text_encoder=CLIPTextModel(text), scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        unet=UNet2DConditionModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                  down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
                                  up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16),
        vae=AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
                          up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=32),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


pipe = tiny_pipeline()


@cutaway.trace
def paint(prompt: str) -> torch.Tensor:
    """The span `paint` becomes the parent of the span of the pipeline inside."""
    generator = torch.Generator().manual_seed(7)
    return pipe(prompt, num_inference_steps=12, guidance_scale=5.0, generator=generator).images[0]


image = paint("a lighthouse in the fog")
print(f"{image.width} x {image.height} pixels of noise from weights that were never trained")
cutaway.shutdown()  # sends what is queued
