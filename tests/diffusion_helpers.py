"""Tiny pipelines of random weights for the tests of diffusion tracing: real diffusers classes, a few thousand parameters each."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz "


def tokenizer() -> Any:
    """A CLIP tokenizer that knows single letters."""
    pieces = [*LETTERS.strip(), *(f"{letter}</w>" for letter in LETTERS.strip()), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=12)


def text_encoder(kind: Any = CLIPTextModel) -> Any:
    config = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=60,
                            projection_dim=16, max_position_embeddings=12, bos_token_id=52, eos_token_id=53, pad_token_id=53)
    return kind(config).eval()


def autoencoder(channels: int = 4) -> Any:
    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=channels,
                         up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16, shift_factor=0.0).eval()


def quiet(pipe: Any, name: str) -> Any:
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(_name_or_path=name)
    return pipe


def stable_diffusion(kind: Any = StableDiffusionPipeline, scheduler: Any = None) -> Any:
    """StableDiffusionPipeline (or a class derived from it) for 16 x 16 images, latents [image, 4, 8, 8]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
                                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16).eval()
        pipe = kind(vae=autoencoder(), text_encoder=text_encoder(), tokenizer=tokenizer(), unet=unet,
                    scheduler=scheduler or DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
                    feature_extractor=None, requires_safety_checker=False)
    return quiet(pipe, "someone/tiny-diffusion")


def flow_matching() -> Any:
    """StableDiffusion3Pipeline without T5: a transformer and a flow-matching scheduler."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(sample_size=8, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
                                            num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
                                            pooled_projection_dim=32, out_channels=4).eval()
        encoders = [text_encoder(CLIPTextModelWithProjection) for _ in range(2)]
        pipe = StableDiffusion3Pipeline(
            transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder(), text_encoder=encoders[0],
            tokenizer=tokenizer(), text_encoder_2=encoders[1], tokenizer_2=tokenizer(), text_encoder_3=None, tokenizer_3=None)
    return quiet(pipe, "someone/tiny-flow")


def unconditional() -> Any:
    """DDPMPipeline: it has no callback at all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1,
                           norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2).eval()
    return quiet(DDPMPipeline(unet=unet, scheduler=DDPMScheduler()), "someone/tiny-ddpm")


def seeded(seed: int = 5) -> Any:
    return torch.Generator().manual_seed(seed)
