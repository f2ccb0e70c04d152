"""From files to batches: data sets, folders of pictures, decoding, augmentation, the loader."""
