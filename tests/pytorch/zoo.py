"""Tiny `transformers` models of every kind, built from configurations alone, for tests.

Each `Architecture` builds a randomly initialised model of a few thousand parameters (eval mode,
fixed seed, nothing downloaded) and the keyword arguments of a forward call that takes milliseconds.
Heads with tied weights are taken where a model has one, so the zoo exercises weight sharing too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import attrs
import torch
import transformers
from torch import Tensor, nn

Inputs: TypeAlias = dict[str, Tensor]

_VOCABULARY = 96
_IMAGE_TOKEN = 9  # below every id that `_ids` gives
_BATCH, _LENGTH = 2, 12


@attrs.frozen
class Architecture:
    """A named model family: how to build a tiny member, and what to call it with."""

    name: str
    build: Callable[[], nn.Module]
    example_inputs: Callable[[], Inputs]


def _build(model: str, options: dict[str, object]) -> nn.Module:
    """Instantiate a `transformers` model class by name, leaving the global RNG as it was."""
    model_class = getattr(transformers, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        instance: nn.Module = model_class(model_class.config_class(**options))
    return instance.eval()


def _row(name: str, model: str, inputs: Callable[[], Inputs], **options: object) -> Architecture:
    return Architecture(name, partial(_build, model, options), inputs)


# Inputs: fresh tensors of the same values at every call.


def _ids(length: int = _LENGTH) -> Tensor:
    """Token ids well inside the vocabulary, clear of the special ids at its start."""
    return 10 + torch.arange(_BATCH * length).reshape(_BATCH, length) % 80


def _floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _text() -> Inputs:
    return {"input_ids": _ids()}


def _masked_text() -> Inputs:
    """Tokens with an attention mask that hides the end of the last sequence."""
    mask = torch.ones(_BATCH, _LENGTH, dtype=torch.long)
    mask[-1, -3:] = 0
    return {"input_ids": _ids(), "attention_mask": mask}


def _text_pair() -> Inputs:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(8)}


def _image() -> Inputs:
    return {"pixel_values": _floats(_BATCH, 3, 32, 32)}


def _captioned_image() -> Inputs:
    return {**_masked_text(), **_image()}


def _image_in_text() -> Inputs:
    """Tokens of which the first stand for the 16 patches of an image."""
    patches = torch.full((_BATCH, 16), _IMAGE_TOKEN)
    return {"input_ids": torch.cat([patches, _ids()], dim=1), **_image()}


def _document() -> Inputs:
    """Tokens with their bounding boxes `(x0, y0, x1, y1)` on the page."""
    return {**_masked_text(), "bbox": torch.tensor([1, 2, 11, 12]).repeat(_BATCH, _LENGTH, 1)}


def _waveform() -> Inputs:
    return {"input_values": _floats(_BATCH, 400)}


def _mono_sound() -> Inputs:
    return {"input_values": _floats(_BATCH, 1, 640)}


def _spectrogram() -> Inputs:
    return {"input_values": _floats(_BATCH, 32, 16)}


def _speech_to_text() -> Inputs:
    return {"input_features": _floats(_BATCH, 16, 40), "decoder_input_ids": _ids(8)}


def _series() -> Inputs:
    return {"past_values": _floats(_BATCH, 32, 3)}


# Options: what the families below have in common; a row adds what is its own.

_BERT: dict[str, object] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROBERTA: dict[str, object] = {**_BERT, "pad_token_id": 1, "bos_token_id": 0}
_LLAMA = {**_BERT, "num_key_value_heads": 1, "tie_word_embeddings": True, "use_cache": False}
_GEMMA = {**_LLAMA, "head_dim": 8}
_GPT: dict[str, object] = {
    "vocab_size": _VOCABULARY,
    "n_positions": 64,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_MOE = {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MAMBA: dict[str, object] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "state_size": 4,
    "num_hidden_layers": 2,
    "tie_word_embeddings": True,
    "use_cache": False,
}
_BART: dict[str, object] = {
    "vocab_size": _VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
_T5: dict[str, object] = {
    "vocab_size": _VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "use_cache": False,
}
_VIT: dict[str, object] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_SWIN: dict[str, object] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
_CONVNEXT: dict[str, object] = {"depths": [1, 1, 2, 1], "hidden_sizes": [4, 8, 12, 16]}
_RESNET: dict[str, object] = {"embedding_size": 8, "depths": [1, 2], "hidden_sizes": [16, 32]}
_WAV2VEC2: dict[str, object] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_kernel": [8, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_TOWERS: dict[str, object] = {"text_config": _BERT, "vision_config": _VIT}

# A table: a model takes as few lines as it needs, not one line for each option.
# fmt: off
ARCHITECTURES: tuple[Architecture, ...] = (
    # Encoders
    _row("bert", "BertForMaskedLM", _masked_text, **_BERT),
    _row("roberta", "RobertaForMaskedLM", _masked_text, **_ROBERTA),
    _row("xlm_roberta", "XLMRobertaForMaskedLM", _text, **_ROBERTA),
    _row("camembert", "CamembertForCausalLM", _text, **_ROBERTA, is_decoder=True, use_cache=False),
    _row(
        "distilbert", "DistilBertForMaskedLM", _masked_text,
        vocab_size=_VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32,
    ),
    _row("electra", "ElectraForMaskedLM", _masked_text, **_BERT, embedding_size=8),
    _row(
        "deberta", "DebertaForMaskedLM", _masked_text,
        **_BERT, relative_attention=True, pos_att_type=["c2p", "p2c"],
    ),
    _row(
        "deberta_v2", "DebertaV2ForMaskedLM", _masked_text,
        **_BERT, relative_attention=True, position_buckets=8, pos_att_type=["c2p", "p2c"],
    ),
    _row("albert", "AlbertForMaskedLM", _masked_text, **_BERT, embedding_size=8),
    _row("mpnet", "MPNetForMaskedLM", _masked_text, **_ROBERTA),
    _row(
        "modernbert", "ModernBertForMaskedLM", _masked_text,
        **_BERT, cls_token_id=1, sep_token_id=2, local_attention=8,
    ),
    _row("fnet", "FNetForMaskedLM", _text, **_BERT),
    _row("squeezebert", "SqueezeBertForMaskedLM", _text, **_BERT, embedding_size=16),
    _row(
        "mobilebert", "MobileBertForMaskedLM", _text,
        **_BERT, embedding_size=8, intra_bottleneck_size=8,
    ),
    _row("convbert", "ConvBertForMaskedLM", _masked_text, **_BERT, embedding_size=16),
    _row("roformer", "RoFormerForMaskedLM", _masked_text, **_BERT, embedding_size=16),
    _row("longformer", "LongformerForMaskedLM", _masked_text, **_ROBERTA, attention_window=4),
    _row("layoutlm", "LayoutLMForMaskedLM", _document, **_BERT, max_2d_position_embeddings=64),
    # Decoders
    _row("gpt2", "GPT2LMHeadModel", _text, **_GPT),
    _row("gpt_bigcode", "GPTBigCodeForCausalLM", _text, **_GPT),
    _row("gptj", "GPTJForCausalLM", _text, **_GPT, rotary_dim=4),
    _row(
        "gpt_neo", "GPTNeoForCausalLM", _text,
        vocab_size=_VOCABULARY, hidden_size=16, num_layers=2, num_heads=2, use_cache=False,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2,
    ),
    _row("gpt_neox", "GPTNeoXForCausalLM", _text, **_BERT, use_cache=False),
    _row("llama", "LlamaForCausalLM", _masked_text, **_LLAMA),
    _row("mistral", "MistralForCausalLM", _text, **_LLAMA, sliding_window=8),
    _row("qwen2", "Qwen2ForCausalLM", _masked_text, **_LLAMA),
    _row("qwen3", "Qwen3ForCausalLM", _text, **_LLAMA, head_dim=8),
    _row("gemma", "GemmaForCausalLM", _text, **_GEMMA),
    _row("gemma2", "Gemma2ForCausalLM", _text, **_GEMMA, sliding_window=8),
    _row("gemma3", "Gemma3ForCausalLM", _text, **_GEMMA, sliding_window=8),
    _row("phi", "PhiForCausalLM", _text, **_LLAMA),
    _row("phi3", "Phi3ForCausalLM", _text, **_LLAMA),
    _row("stablelm", "StableLmForCausalLM", _text, **_LLAMA),
    _row("cohere", "CohereForCausalLM", _text, **_LLAMA),
    _row("olmo2", "Olmo2ForCausalLM", _text, **_LLAMA),
    _row(
        "opt", "OPTForCausalLM", _masked_text,
        vocab_size=_VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        ffn_dim=32, word_embed_proj_dim=8, max_position_embeddings=64, use_cache=False,
    ),
    _row(
        "bloom", "BloomForCausalLM", _text,
        vocab_size=_VOCABULARY, hidden_size=16, n_layer=2, n_head=2, use_cache=False,
    ),
    _row(
        "falcon", "FalconForCausalLM", _text,
        vocab_size=_VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        use_cache=False,
    ),
    _row(
        "mpt", "MptForCausalLM", _text,
        vocab_size=_VOCABULARY, d_model=16, n_layers=2, n_heads=2, max_seq_len=64, use_cache=False,
    ),
    _row(
        "xlnet", "XLNetLMHeadModel", _text,
        vocab_size=_VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=32, use_mems_eval=False,
    ),
    # Encoder-decoders
    _row("t5", "T5ForConditionalGeneration", _text_pair, **_T5),
    _row("mt5", "MT5ForConditionalGeneration", _text_pair, **_T5),
    _row("bart", "BartForConditionalGeneration", _text_pair, **_BART),
    _row("mbart", "MBartForConditionalGeneration", _text_pair, **_BART),
    _row("marian", "MarianMTModel", _text_pair, **_BART),
    _row("pegasus", "PegasusForConditionalGeneration", _text_pair, **_BART),
    _row("m2m_100", "M2M100ForConditionalGeneration", _text_pair, **_BART),
    _row(
        "whisper", "WhisperForConditionalGeneration", _speech_to_text,
        **_BART, num_mel_bins=16, max_source_positions=20, max_target_positions=16,
    ),
    # Vision
    _row("vit", "ViTForImageClassification", _image, **_VIT),
    _row("deit", "DeiTForImageClassificationWithTeacher", _image, **_VIT),
    _row("beit", "BeitForImageClassification", _image, **_VIT, use_relative_position_bias=True),
    _row("dinov2", "Dinov2ForImageClassification", _image, **_VIT),
    _row("yolos", "YolosForObjectDetection", _image, **_VIT | {"image_size": [32, 32]}),
    _row("swin", "SwinForImageClassification", _image, **_SWIN),
    _row("swinv2", "Swinv2ForImageClassification", _image, **_SWIN),
    _row("convnext", "ConvNextForImageClassification", _image, **_CONVNEXT),
    _row("convnextv2", "ConvNextV2ForImageClassification", _image, **_CONVNEXT),
    _row("resnet", "ResNetForImageClassification", _image, **_RESNET),
    _row("regnet", "RegNetForImageClassification", _image, **_RESNET, groups_width=8),
    _row("mobilenet_v2", "MobileNetV2ForImageClassification", _image, depth_multiplier=0.1),
    _row(
        "segformer", "SegformerForSemanticSegmentation", _image,
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    ),
    _row(
        "hiera", "HieraForImageClassification", _image,
        embed_dim=8, image_size=[32, 32], depths=[1, 1], num_heads=[1, 2], num_query_pool=1,
        masked_unit_size=[4, 4], masked_unit_attention=[True, False],
    ),
    _row(
        "detr", "DetrForObjectDetection", _image,
        **_BART, num_queries=5,
        backbone_config={"model_type": "resnet", "out_features": ["stage2"], **_RESNET},
    ),
    _row(  # its forward draws the patches to hide from the global RNG
        "vit_mae", "ViTMAEForPreTraining", _image,
        **_VIT, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    ),
    # Audio
    _row("wav2vec2", "Wav2Vec2ForCTC", _waveform, **_WAV2VEC2),
    _row("hubert", "HubertForCTC", _waveform, **_WAV2VEC2),
    _row("wavlm", "WavLMForCTC", _waveform, **_WAV2VEC2),
    _row(
        "audio_spectrogram_transformer", "ASTForAudioClassification", _spectrogram,
        **_VIT, max_length=32, num_mel_bins=16, frequency_stride=8, time_stride=8,
    ),
    _row(
        "encodec", "EncodecModel", _mono_sound,
        hidden_size=16, num_filters=4, upsampling_ratios=[4, 2], num_lstm_layers=1,
        codebook_size=16, codebook_dim=16, sampling_rate=800,
    ),
    # Multi-modal
    _row("clip", "CLIPModel", _captioned_image, **_TOWERS, projection_dim=8),
    _row("siglip", "SiglipModel", _captioned_image, **_TOWERS),
    _row("vilt", "ViltForQuestionAnswering", _captioned_image, **_BERT | _VIT),
    _row(
        "llava", "LlavaForConditionalGeneration", _image_in_text,
        text_config={"model_type": "llama", **_LLAMA},
        vision_config={"model_type": "clip_vision_model", **_VIT},
        image_token_index=_IMAGE_TOKEN, vision_feature_layer=-1,
    ),
    # Mixture of experts
    _row("mixtral", "MixtralForCausalLM", _text, **_LLAMA, num_local_experts=4),
    _row("qwen2_moe", "Qwen2MoeForCausalLM", _text, **_MOE, shared_expert_intermediate_size=16),
    _row("qwen3_moe", "Qwen3MoeForCausalLM", _text, **_MOE, head_dim=8),
    _row("olmoe", "OlmoeForCausalLM", _text, **_MOE),
    _row(
        "gpt_oss", "GptOssForCausalLM", _text,
        **_MOE, head_dim=8, num_local_experts=4, rope_parameters={"rope_type": "default"},
    ),
    _row(
        "deepseek_v3", "DeepseekV3ForCausalLM", _text,
        **_MOE | {"num_key_value_heads": 2}, n_routed_experts=4, n_group=1, topk_group=1,
        kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        first_k_dense_replace=1,
    ),
    _row(
        "switch_transformers", "SwitchTransformersForConditionalGeneration", _text_pair,
        **_T5, num_decoder_layers=2, num_experts=4, expert_capacity=16,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
    ),
    # State-space and recurrent
    _row("mamba", "MambaForCausalLM", _text, **_MAMBA, time_step_rank=2),
    _row("falcon_mamba", "FalconMambaForCausalLM", _text, **_MAMBA, time_step_rank=2),
    _row(
        "mamba2", "Mamba2ForCausalLM", _text,
        **_MAMBA, num_heads=4, head_dim=8, n_groups=2, chunk_size=4,
    ),
    _row(
        "jamba", "JambaForCausalLM", _text,
        **_LLAMA, num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
        mamba_d_state=4, mamba_dt_rank=2,
    ),
    _row("rwkv", "RwkvForCausalLM", _text, **_MAMBA, context_length=64),
    _row(
        "recurrent_gemma", "RecurrentGemmaForCausalLM", _text,
        **_LLAMA, lru_width=16, attention_window_size=8, block_types=["recurrent", "attention"],
    ),
    # Time series
    _row(
        "patchtst", "PatchTSTForPrediction", _series,
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, d_model=16,
        num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, prediction_length=4,
    ),
)
# fmt: on
