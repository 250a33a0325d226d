"""Reference CLIP and DiST in PyTorch, written from the papers, with the parameter names of the published release.

It shares no code with dist_jax. A converted state dict must load with strict=True and give the same results.
"""

import torch
from torch import nn


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def mlp(width, hidden):
    layers = nn.Sequential()
    layers.add_module("c_fc", nn.Linear(width, hidden))
    layers.add_module("act", QuickGelu())
    layers.add_module("c_proj", nn.Linear(hidden, width))
    return layers


class Block(nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = mlp(width, 4 * width)

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, num_layers, num_heads):
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, num_heads) for _ in range(num_layers)])


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = nn.Conv2d(3, c.width, c.patch_size, c.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(c.width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + c.num_patches, c.width))
        self.ln_pre, self.ln_post = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.transformer = Transformer(c.width, c.num_layers, c.num_heads)
        self.proj = nn.Parameter(torch.empty(c.width, c.embed_dim))

    def features(self, frames):
        """[F, 3, H, W] -> the residual stream after every block, a list of [F, 1+N, D]."""
        patches = self.conv1(frames).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(frames), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        streams = []
        for block in self.transformer.resblocks:
            x = block(x)
            streams.append(x)
        return streams

    def embed(self, last):
        return self.ln_post(last[:, 0]) @ self.proj


class Exchange(nn.Module):
    """Connection of the two branches: a linear layer or convolution `linear_fuse`, optionally with a class token."""

    def __init__(self, layer, token=None):
        super().__init__()
        self.linear_fuse = layer
        if token is not None:
            self.cls_token = nn.Parameter(torch.empty(1, 1, *token))


class TemporalBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.temporal_net = nn.Sequential()
        self.temporal_net.add_module("c_fc1", nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)))
        self.temporal_net.add_module("act", QuickGelu())
        self.temporal_net.add_module("c_fc2", nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1)))
        self.ln = nn.LayerNorm(width)

    def forward(self, z):  # [B, M, T, h, w]
        normed = self.ln(z.movedim(1, -1)).movedim(-1, 1)
        return QuickGelu()(z + self.temporal_net(normed))


class Integration(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ffn = mlp(width, width)
        self.temporal_ffn = nn.Sequential()
        self.temporal_ffn.add_module("c_fc1", nn.Conv3d(width, width // 4, 1))
        self.temporal_ffn.add_module("c_fc2", nn.Conv3d(width // 4, width // 4, (3, 1, 1), padding=(1, 0, 0)))
        self.temporal_ffn.add_module("act", QuickGelu())
        self.temporal_ffn.add_module("c_proj", nn.Conv3d(width // 4, width, 1))
        self.ln, self.ln_temporal = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, m):  # [B, S, 1+N, C]
        along_time = self.ln_temporal(m).permute(0, 3, 1, 2)[..., None]  # [B, C, S, 1+N, 1]
        return self.ffn(self.ln(m)) + self.temporal_ffn(along_time)[..., 0].permute(0, 2, 3, 1)


class CrossAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)

    def forward(self, query, context):
        context = self.ln_1(context)
        return self.attn(self.ln_1(query), context, context, need_weights=False)[0]


class Pooling(nn.Module):
    def __init__(self, num_frames, width):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(1, num_frames, width))
        self.temporal_transformer, self.spatial_transformer = CrossAttention(width), CrossAttention(width)
        self.output_map_cls_token, self.output_map_spatial_cls_token = mlp(width, 4 * width), mlp(width, 4 * width)
        self.ln_out_temp_cls_token, self.ln_out_spat_cls_token = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, s, a, y):  # [B*S, 1, C], [B, 1, C], [B*S, 1+N, C]
        s = s + self.spatial_transformer(s, y)
        s = s + self.output_map_spatial_cls_token(self.ln_out_spat_cls_token(s))
        c = s.reshape(len(a), -1, s.shape[-1]) + self.positional_embedding
        a = a + self.temporal_transformer(a, c)
        return s, a + self.output_map_cls_token(self.ln_out_temp_cls_token(a))


class Dist(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        width, temporal_width, num_layers = c.integration_width, c.temporal_width, len(c.layers)
        self.temporal_stem = nn.Conv3d(
            3,
            temporal_width,
            (5, c.patch_size, c.patch_size),
            stride=(1, c.patch_size, c.patch_size),
            padding=(2, 0, 0),
        )
        self.input_linears = nn.ModuleList([nn.Linear(c.backbone_width, width) for _ in range(num_layers)])
        self.integration2temporal_nets = nn.ModuleList(
            [Exchange(nn.Linear(width, temporal_width)) for _ in range(num_layers)]
        )
        self.temporal2integration_nets = nn.ModuleList(
            [
                Exchange(
                    nn.Conv3d(temporal_width, width, (c.alpha, 1, 1), (c.alpha, 1, 1)), (c.num_sparse_frames, width)
                )
                for _ in range(num_layers)
            ]
        )
        self.temporal_nets = nn.ModuleList([TemporalBlock(temporal_width) for _ in range(num_layers)])
        self.integration_nets = nn.ModuleList([Integration(width) for _ in range(num_layers)])
        self.adapooling_nets = nn.ModuleList([Pooling(c.num_sparse_frames, width) for _ in range(c.num_pooling_layers)])
        self.proj_spatial_cls_token = nn.Linear(c.backbone_width, width)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, c.embed_dim))
        self.aggregated_cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.aggregated_spatial_cls_token = nn.Parameter(torch.empty(1, 1, width))

    def forward(self, features, video):  # a list of [B, S, 1+N, D], [B, 3, T, H, W]
        z = self.temporal_stem(video)  # [B, M, T, h, w]
        r = 0
        for i, feature in enumerate(features):
            z = self.temporal_nets[i](z)
            m = self.input_linears[i](feature) + r  # [B, S, 1+N, C]
            down = self.integration2temporal_nets[i].linear_fuse(m[:, :, 1:])  # [B, S, N, M]
            down = down.unflatten(2, z.shape[3:]).repeat_interleave(self.c.alpha, 1)  # [B, T, h, w, M]
            into = self.temporal2integration_nets[i]
            up = into.linear_fuse(z).flatten(3).permute(0, 2, 3, 1)  # [B, S, N, C]
            token = into.cls_token[0].transpose(0, 1).expand(len(up), -1, -1, -1)  # [B, S, 1, C]
            z = z + down.permute(0, 4, 1, 2, 3)
            m = m + torch.cat([token, up], 2)
            r = self.integration_nets[i](m)
        y = (r + m).flatten(0, 1)  # [B*S, 1+N, C]
        s = self.aggregated_spatial_cls_token.expand(len(y), 1, -1)
        a = self.aggregated_cls_token.expand(len(m), 1, -1)
        for layer in self.adapooling_nets:
            s, a = layer(s, a, y)
        return self.ln_post(a[:, 0] + self.proj_spatial_cls_token(features[-1][:, :, 0].mean(1))) @ self.proj


class Encoder(nn.Module):
    def __init__(self, vision, text, dist):
        super().__init__()
        self.visual = Vision(vision)
        self.dist_net = Dist(dist)
        self.transformer = Transformer(text.width, text.num_layers, text.num_heads)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, text.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def text(self, tokens):
        """int [K, context] -> [K, E], the output at the highest token id."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1],) * 2, -torch.inf).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection


class Published(nn.Module):
    """The published model; all parameters have the prefix backbone.base_encoder."""

    def __init__(self, vision, text, dist):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.base_encoder = Encoder(vision, text, dist)

    def features(self, video):
        """Normalised [B, T, 3, H, W] -> the residual streams of all blocks, a list of [B, S, 1+N, D]."""
        encoder = self.backbone.base_encoder
        frames = video[:, :: encoder.dist_net.c.alpha]
        streams = encoder.visual.features(frames.flatten(0, 1))
        return [stream.unflatten(0, frames.shape[:2]) for stream in streams]

    def embed(self, video):
        """Normalised [B, T, 3, H, W] -> DiST embeddings [B, E], unit length."""
        network = self.backbone.base_encoder.dist_net
        streams = self.features(video)
        embedding = network([streams[i] for i in network.c.layers], video.transpose(1, 2))
        return nn.functional.normalize(embedding, dim=1)

    def logits(self, video, tokens, zero_shot_weight=0.0):
        """Normalised video and token ids -> logits [B, K]; `zero_shot_weight` is the weight of plain CLIP."""
        encoder = self.backbone.base_encoder
        text = nn.functional.normalize(encoder.text(tokens), dim=1)
        frames = self.features(video)[-1]
        plain = nn.functional.normalize(encoder.visual.embed(frames.flatten(0, 1)), dim=1) @ text.T
        plain = plain.unflatten(0, frames.shape[:2]).mean(1)
        return encoder.logit_scale.exp() * (
            (1 - zero_shot_weight) * self.embed(video) @ text.T + zero_shot_weight * plain
        )
