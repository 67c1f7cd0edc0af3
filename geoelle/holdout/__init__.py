"""Which chips may be trained on and which are held out: fixed blocks, folds by content, dead zones."""

from geoelle.holdout.blocks import assign_blocks, block_keys, suggest_block_size
from geoelle.holdout.folds import buffer_mask, fold_digest, folds_from_blocks, random_folds

__all__ = (
    "assign_blocks",
    "block_keys",
    "buffer_mask",
    "fold_digest",
    "folds_from_blocks",
    "random_folds",
    "suggest_block_size",
)
