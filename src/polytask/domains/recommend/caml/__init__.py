"""CAML: ratings and the sentences that explain them, learnt together from reviews (Chen et al., IJCAI 2019)."""

from polytask.domains.recommend.caml.concepts import (
    ConceptExtractor,
    Concepts,
    FrequentConcepts,
    GivenConcepts,
    read_concepts,
)
from polytask.domains.recommend.caml.encoder import ReviewEncoder, ReviewGate
from polytask.domains.recommend.caml.generator import Attended, ExplanationGRU, TokenCrossEntropy, beam_search
from polytask.domains.recommend.caml.loaders import Review, load_amazon, load_caml, load_yelp
from polytask.domains.recommend.caml.model import (
    CoAttentiveTrunk,
    RatingHead,
    attend,
    caml_tasks,
    explain,
    explanation_task,
    make_caml,
)
from polytask.domains.recommend.caml.rating import FactorisationMachine, rating_offsets
from polytask.domains.recommend.caml.relevance import ConceptRelevance, concept_loss
from polytask.domains.recommend.caml.reviews import PlantedReviews, plant_reviews
from polytask.domains.recommend.caml.rows import Corpus, Pair, PairSource, Side
from polytask.domains.recommend.caml.scores import (
    bleu,
    feature_scores,
    rouge,
    rouge_l,
    rouge_n,
    text_scores,
    unique_ratio,
)
from polytask.domains.recommend.caml.selector import Choice, CoAttention, Selector, gumbel, pick
from polytask.domains.recommend.caml.text import Vocabulary, join, sentences, tokenise

__all__ = [
    "Attended",
    "Choice",
    "CoAttention",
    "CoAttentiveTrunk",
    "ConceptExtractor",
    "ConceptRelevance",
    "Concepts",
    "Corpus",
    "ExplanationGRU",
    "FactorisationMachine",
    "FrequentConcepts",
    "GivenConcepts",
    "Pair",
    "PairSource",
    "PlantedReviews",
    "RatingHead",
    "Review",
    "ReviewEncoder",
    "ReviewGate",
    "Selector",
    "Side",
    "TokenCrossEntropy",
    "Vocabulary",
    "attend",
    "beam_search",
    "bleu",
    "caml_tasks",
    "concept_loss",
    "explain",
    "explanation_task",
    "feature_scores",
    "gumbel",
    "join",
    "load_amazon",
    "load_caml",
    "load_yelp",
    "make_caml",
    "pick",
    "plant_reviews",
    "rating_offsets",
    "read_concepts",
    "rouge",
    "rouge_l",
    "rouge_n",
    "sentences",
    "text_scores",
    "tokenise",
    "unique_ratio",
]
