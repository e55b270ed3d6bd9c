"""Raw media to feature tracks: media, speech, embedding, acoustic, facial, and the weights they run on.

Nothing here knows the model; the only thing handed on is ``data.FeatureTrack``.
"""

from extractors.environment import prepare

prepare()
