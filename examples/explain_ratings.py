"""Ratings and the sentences that explain them, from reviews: CAML on generated reviews whose reasons are known.

python examples/explain_ratings.py

For reviews of your own: load_amazon("reviews.json.gz") or load_yelp("review.json") instead of plant_reviews().
"""

import torch

from polytask import AllTasks, Stage, evaluate, fit
from polytask.domains.recommend.caml import (
    ConceptRelevance,
    Corpus,
    FrequentConcepts,
    attend,
    caml_tasks,
    explain,
    join,
    make_caml,
    plant_reviews,
    text_scores,
)

torch.set_num_threads(1)  # the tensors are small: threads would only wait for each other
torch.manual_seed(0)
made = plant_reviews(users=60, items=40, reviews=1200, aspects=4)
train, valid, test = (made.reviews[part] for part in made.split(0.8, 0.1))

# vocabulary, concepts and tables come from the training reviews only
corpus = Corpus.fit(train, words=24, concepts=4, extractor=FrequentConcepts(size=8))
print("concepts found:", ", ".join(corpus.concepts.names))
rows = [corpus.rows(part, most=6, longest=16) for part in (train, valid, test)]

tasks = caml_tasks(corpus)
model = make_caml(corpus, width=24, hidden=32)
run = fit(
    model,
    tasks,
    AllTasks(rows[0], batch_size=64),
    rows[1].batches(256),
    objective=ConceptRelevance(0.02),
    plan=Stage(epochs=12, lr=1e-2, patience=None),
)
print(f"best epoch {run.best} of {len(run.evaluations)}")
for name, scores in evaluate(model, tasks, rows[2].batches(256)).items():
    print(name, {score: round(value, 3) for score, value in scores.items()})

texts = explain(model, rows[2].batches(256), corpus.vocabulary, longest=16)
people = [corpus.concepts.merge(review.explanation) for review in test]
print("texts", {score: round(value, 3) for score, value in text_scores(texts, people).items()})

batch = rows[2].take(slice(0, 5))
picked = attend(model, batch).item_choice.concept()
for review, text, numbers in zip(test, texts, picked.tolist(), strict=False):
    concepts = ", ".join(corpus.vocabulary.words[number] for number in numbers if number)
    print(f"{review.rating:.0f} stars | {join(text)} | people: {join(review.explanation)} | picked: {concepts}")
