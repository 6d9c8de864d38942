"""What there is to cite, as BibTeX: who uses what is said in `citations`."""

from __future__ import annotations

Entry = tuple[str, str, dict[str, str]]
"""Kind, key, fields."""


def _preprint(key: str, number: str, year: str, authors: str, title: str) -> Entry:
    journal = f"arXiv preprint arXiv:{number}"
    fields = {"title": title, "author": authors, "journal": journal, "year": year, "eprint": number}
    return "article", key, fields | {"archiveprefix": "arXiv"}


FORWARD_FORWARD = _preprint(
    "hinton2022forward",
    "2212.13345",
    "2022",
    "Hinton, Geoffrey",
    "The {Forward-Forward} Algorithm: Some Preliminary Investigations",
)
PFF = _preprint(
    "aktemur2024going",
    "2404.08573",
    "2024",
    'Aktemur, Ege and Zorlutuna, Ege and Bilgili, Kaan and B{\\"o}k, Tacettin Emre and Yanikoglu, Berrin '
    'and Mutluergil, S{\\"u}ha Orhun',
    "Going {Forward-Forward} in Distributed Deep Learning",
)
FEDAVG = _preprint(
    "mcmahan2016communication",
    "1602.05629",
    "2016",
    'McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Ag{\\"u}era y Arcas, Blaise',
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
)
SYMBA = _preprint(
    "lee2023symba",
    "2303.08418",
    "2023",
    "Lee, Heung-Chang and Song, Jeonggeun",
    "{SymBa}: Symmetric Backpropagation-Free Contrastive Learning with {Forward-Forward} Algorithm "
    "for Optimizing Convergence",
)
MONO_FORWARD = _preprint(
    "gong2025mono",
    "2501.09238",
    "2025",
    "Gong, James and Li, Bruce and Abdulla, Waleed",
    "{Mono-Forward}: Backpropagation-Free Algorithm for Efficient Neural Network Training Harnessing Local Errors",
)
ADAM = _preprint(
    "kingma2014adam",
    "1412.6980",
    "2014",
    "Kingma, Diederik P. and Ba, Jimmy",
    "Adam: A Method for Stochastic Optimization",
)
ADAMW = _preprint(
    "loshchilov2017decoupled",
    "1711.05101",
    "2017",
    "Loshchilov, Ilya and Hutter, Frank",
    "Decoupled Weight Decay Regularization",
)
DGL = _preprint(
    "belilovsky2019decoupled",
    "1901.08164",
    "2019",
    "Belilovsky, Eugene and Eickenberg, Michael and Oyallon, Edouard",
    "Decoupled Greedy Learning of {CNNs}",
)
DGL_FREELY = _preprint(
    "belilovsky2021decoupled",
    "2106.06401",
    "2021",
    "Belilovsky, Eugene and Leconte, Louis and Caccia, Lucas and Eickenberg, Michael and Oyallon, Edouard",
    "Decoupled Greedy Learning of {CNNs} for Synchronous and Asynchronous Distributed Learning",
)
"""Replay buffers, and codes at the boundaries."""
VQ = _preprint(
    "oord2017neural",
    "1711.00937",
    "2017",
    "van den Oord, Aaron and Vinyals, Oriol and Kavukcuoglu, Koray",
    "Neural Discrete Representation Learning",
)
HEADS: dict[str, Entry] = {
    "auglocal": _preprint(
        "ma2024scaling",
        "2402.17318",
        "2024",
        "Ma, Chenxiang and Wu, Jibin and Si, Chenyang and Tan, Kay Chen",
        "Scaling Supervised Local Learning with Augmented Auxiliary Networks",
    ),
    "man": _preprint(
        "su2024momentum",
        "2407.05623",
        "2024",
        "Su, Junhao and Cai, Changpeng and Zhu, Feiyu and He, Chenghao and Xu, Xiaojie and Guan, Dongzhi "
        "and Si, Chenyang",
        "Momentum Auxiliary Network for Supervised Local Learning",
    ),
}
"""Heads that are papers of their own, by kind."""
SMOOTHING = _preprint(
    "szegedy2015rethinking",
    "1512.00567",
    "2015",
    "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and Shlens, Jonathon and Wojna, Zbigniew",
    "Rethinking the {Inception} Architecture for Computer Vision",
)
METHODS: dict[str | None, Entry] = {
    "ddp": _preprint(
        "li2020pytorch",
        "2006.15704",
        "2020",
        "Li, Shen and Zhao, Yanli and Varma, Rohan and Salpekar, Omkar and Noordhuis, Pieter and Li, Teng "
        "and Paszke, Adam and Smith, Jeff and Vaughan, Brian and Damania, Pritam and Chintala, Soumith",
        "{PyTorch} Distributed: Experiences on Accelerating Data Parallel Training",
    ),
    "gpipe": _preprint(
        "huang2018gpipe",
        "1811.06965",
        "2018",
        "Huang, Yanping and Cheng, Youlong and Bapna, Ankur and Firat, Orhan and Chen, Mia Xu and Chen, Dehao "
        "and Lee, HyoukJoong and Ngiam, Jiquan and Le, Quoc V. and Wu, Yonghui and Chen, Zhifeng",
        "{GPipe}: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
    ),
    "1f1b": _preprint(
        "harlap2018pipedream",
        "1806.03377",
        "2018",
        "Harlap, Aaron and Narayanan, Deepak and Phanishayee, Amar and Seshadri, Vivek and Devanur, Nikhil "
        "and Ganger, Greg and Gibbons, Phil",
        "{PipeDream}: Fast and Efficient Pipeline Parallel {DNN} Training",
    ),
    "interleaved-1f1b": _preprint(
        "narayanan2021efficient",
        "2104.04473",
        "2021",
        "Narayanan, Deepak and Shoeybi, Mohammad and Casper, Jared and LeGresley, Patrick and Patwary, Mostofa "
        "and Korthikanti, Vijay Anand and Vainbrand, Dmitri and Kashinkunti, Prethvi and Bernauer, Julie "
        "and Catanzaro, Bryan and Phanishayee, Amar and Zaharia, Matei",
        "Efficient Large-Scale Language Model Training on {GPU} Clusters Using {Megatron-LM}",
    ),
    "zero-bubble": _preprint(
        "qi2024zero",
        "2401.10241",
        "2024",
        "Qi, Penghui and Wan, Xinyi and Huang, Guangxing and Lin, Min",
        "Zero Bubble Pipeline Parallelism",
    ),
}
"""What divides backprop, by the run's method."""
INTERLOCKING = _preprint(
    "gomez2020interlocking",
    "2010.04116",
    "2020",
    "Gomez, Aidan N. and Key, Oscar and Perlin, Kuba and Gou, Stephen and Frosst, Nick and Dean, Jeff and Gal, Yarin",
    "Interlocking Backpropagation: Improving depthwise model-parallelism",
)
NETWORKS: dict[str, Entry] = {
    "conv": DGL,
    "dni": _preprint(
        "jaderberg2016decoupled",
        "1608.05343",
        "2016",
        "Jaderberg, Max and Czarnecki, Wojciech Marian and Osindero, Simon and Vinyals, Oriol and Graves, Alex "
        "and Silver, David and Kavukcuoglu, Koray",
        "Decoupled Neural Interfaces using Synthetic Gradients",
    ),
    "vgg": _preprint(
        "simonyan2014very",
        "1409.1556",
        "2014",
        "Simonyan, Karen and Zisserman, Andrew",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ),
    "resnet": _preprint(
        "he2015deep",
        "1512.03385",
        "2015",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Deep Residual Learning for Image Recognition",
    ),
    "transformer": _preprint(
        "vaswani2017attention",
        "1706.03762",
        "2017",
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and Gomez, Aidan N. "
        "and Kaiser, Lukasz and Polosukhin, Illia",
        "Attention Is All You Need",
    ),
}
"""What the architectures are from, by kind."""
COSINE = _preprint(
    "loshchilov2016sgdr",
    "1608.03983",
    "2016",
    "Loshchilov, Ilya and Hutter, Frank",
    "{SGDR}: Stochastic Gradient Descent with Warm Restarts",
)
_CIFAR: Entry = (
    "techreport",
    "krizhevsky2009learning",
    {
        "title": "Learning Multiple Layers of Features from Tiny Images",
        "author": "Krizhevsky, Alex",
        "institution": "University of Toronto",
        "year": "2009",
    },
)
DATA: dict[str, Entry] = {
    "mnist": (
        "article",
        "lecun1998gradient",
        {
            "title": "Gradient-Based Learning Applied to Document Recognition",
            "author": "LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick",
            "journal": "Proceedings of the IEEE",
            "volume": "86",
            "number": "11",
            "pages": "2278--2324",
            "year": "1998",
        },
    ),
    "fashion-mnist": _preprint(
        "xiao2017fashion",
        "1708.07747",
        "2017",
        "Xiao, Han and Rasul, Kashif and Vollgraf, Roland",
        "{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    ),
    "kmnist": _preprint(
        "clanuwat2018deep",
        "1812.01718",
        "2018",
        "Clanuwat, Tarin and Bober-Irizar, Mikel and Kitamoto, Asanobu and Lamb, Alex and Yamamoto, Kazuaki "
        "and Ha, David",
        "Deep Learning for Classical {Japanese} Literature",
    ),
    "cifar-10": _CIFAR,
    "cifar-100": _CIFAR,
    "tinyshakespeare": (
        "misc",
        "karpathy2015char",
        {
            "title": "char-rnn",
            "author": "Karpathy, Andrej",
            "howpublished": "\\url{https://github.com/karpathy/char-rnn}",
            "year": "2015",
        },
    ),
    "digits": (
        "misc",
        "alpaydin1998optical",
        {
            "title": "Optical Recognition of Handwritten Digits",
            "author": "Alpaydin, E. and Kaynak, C.",
            "howpublished": "UCI Machine Learning Repository",
            "year": "1998",
        },
    ),
}
