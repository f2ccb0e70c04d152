"""The Keras lineage in Keras, as the courses write it: functional, sequential, with attributes.

Written from the courses' descriptions, knowing nothing of torchcnn: what the tests compare with.
"""

import keras
from keras import layers as L


def conv(filters, kernel, strides=1, padding="same", activation=None, **options):
    return L.Conv2D(filters, kernel, strides=strides, padding=padding, activation=activation,
                    **options)  # fmt: skip


def mlp(size, channels, dropout):
    return keras.Sequential([keras.Input((size, size, channels)), L.Flatten(),
                             L.Dense(128, activation="relu"), L.Dense(10)])  # fmt: skip


def sigmoid_cnn(size, channels, dropout):
    return keras.Sequential([
        keras.Input((size, size, channels)),
        conv(6, 5, padding="valid", activation="sigmoid"), L.MaxPooling2D(2, 2),
        conv(6, 5, padding="valid", activation="sigmoid"), L.MaxPooling2D(2, 2),
        conv(6, 5, padding="valid", activation="sigmoid"), L.MaxPooling2D(2, 2),
        L.Flatten(), L.Dense(10, activation="softmax"),
    ])  # fmt: skip


class InOrder(keras.Model):
    """Layers as attributes, called one after the other; it can be saved as a .keras file."""

    def __init__(self, **layers):
        super().__init__()
        self.order = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def get_config(self):
        return {}

    def call(self, x, training=None):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def relu():
    return L.Activation("relu")


def baseline(dropout):
    return InOrder(
        c1=conv(6, 5), b1=L.BatchNormalization(), a1=relu(),
        p1=L.MaxPooling2D(2, 2, padding="same"), d1=L.Dropout(dropout), flatten=L.Flatten(),
        f1=L.Dense(128, activation="relu"), d2=L.Dropout(dropout),
        f2=L.Dense(10, activation="softmax"),
    )  # fmt: skip


def lenet5(dropout):
    return InOrder(
        c1=conv(6, 5, padding="valid", activation="sigmoid"), p1=L.MaxPooling2D(2, 2),
        c2=conv(16, 5, padding="valid", activation="sigmoid"), p2=L.MaxPooling2D(2, 2),
        flatten=L.Flatten(), f1=L.Dense(120, activation="sigmoid"),
        f2=L.Dense(84, activation="sigmoid"), f3=L.Dense(10),
    )  # fmt: skip


def alexnet8(dropout):
    rate = dropout and 0.5
    return InOrder(
        c1=conv(96, 3, padding="valid"), b1=L.BatchNormalization(), a1=relu(),
        p1=L.MaxPooling2D(3, 2),
        c2=conv(256, 3, padding="valid"), b2=L.BatchNormalization(), a2=relu(),
        p2=L.MaxPooling2D(3, 2),
        c3=conv(384, 3, activation="relu"), c4=conv(384, 3, activation="relu"),
        c5=conv(256, 3, activation="relu"), p3=L.MaxPooling2D(3, 2),
        flatten=L.Flatten(), f1=L.Dense(2048, activation="relu"), d1=L.Dropout(rate),
        f2=L.Dense(2048, activation="relu"), d2=L.Dropout(rate),
        f3=L.Dense(10, activation="softmax"),
    )  # fmt: skip


def alexnet_half(size, channels, dropout):
    image = keras.Input((size, size, channels))
    x = L.ZeroPadding2D(((1, 2), (1, 2)))(image)
    x = conv(48, 11, 4, "valid", "relu")(x)
    x = L.MaxPooling2D(3, 2)(x)
    x = conv(128, 5, activation="relu")(x)
    x = L.MaxPooling2D(3, 2)(x)
    x = conv(192, 3, activation="relu")(x)
    x = conv(192, 3, activation="relu")(x)
    x = conv(128, 3, activation="relu")(x)
    x = L.MaxPooling2D(3, 2)(x)
    x = L.Dense(2048, activation="relu")(L.Dropout(dropout)(L.Flatten()(x)))
    x = L.Dense(2048, activation="relu")(L.Dropout(dropout)(x))
    return keras.Model(image, L.Softmax()(L.Dense(1000)(x)))


def vgg13(size, channels, dropout):
    net = keras.Sequential([keras.Input((size, size, channels))])
    for filters in (64, 128, 256, 512, 512):
        net.add(conv(filters, 3, activation="relu"))
        net.add(conv(filters, 3, activation="relu"))
        net.add(L.MaxPooling2D(2, 2, padding="same"))
    for layer in (L.Flatten(), L.Dense(256, activation="relu"), L.Dense(128, activation="relu"),
                  L.Dense(10)):  # fmt: skip
        net.add(layer)
    return net


def vgg16(dropout):
    """Thirteen times c, b, a; five times p, d; all of them attributes with a number."""
    layers, i = {}, 0
    for group, (filters, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for _ in range(count):
            i += 1
            layers |= {f"c{i}": conv(filters, 3), f"b{i}": L.BatchNormalization(), f"a{i}": relu()}
        layers |= {f"p{group}": L.MaxPooling2D(2, 2, padding="same"), f"d{group}":
                   L.Dropout(dropout)}  # fmt: skip
    return InOrder(
        **layers, flatten=L.Flatten(), f1=L.Dense(512, activation="relu"), d6=L.Dropout(dropout),
        f2=L.Dense(512, activation="relu"), d7=L.Dropout(dropout),
        f3=L.Dense(10, activation="softmax"),
    )  # fmt: skip


def nin(size, channels, dropout):
    def block(x, filters, kernel, strides, padding):
        x = conv(filters, kernel, strides, padding, "relu")(x)
        x = conv(filters, 1, activation="relu")(x)
        return conv(filters, 1, activation="relu")(x)

    image = keras.Input((size, size, channels))
    x = L.MaxPooling2D(3, 2)(block(image, 96, 11, 4, "valid"))
    x = L.MaxPooling2D(3, 2)(block(x, 256, 5, 1, "same"))
    x = L.MaxPooling2D(3, 2)(block(x, 384, 3, 1, "same"))
    x = block(x, 10, 3, 1, "same")
    return keras.Model(image, L.GlobalAveragePooling2D()(x))


def nin_dense(size, channels, dropout):
    return keras.Sequential([
        keras.Input((size, size, channels)),
        conv(128, 5, 2, activation="relu", name="conv2D"),
        L.MaxPooling2D(3, 2, name="firstPoolLayer"),
        conv(256, 1, activation="relu", name="Conv2D_1m1_0"),
        L.MaxPooling2D(3, 2, name="secondPoolLayer"),
        conv(512, 1, activation="relu", name="Conv2D_1m1_1"),
        L.MaxPooling2D(5, 3, name="LastPoolLayer"),
        L.Flatten(name="ConvolutiontoFullyConnected"),
        L.Dense(1028, activation="relu", name="FirstFullyConnectedLayer"),
        L.Dense(1028, activation="relu", name="SecondFullyConnectedLayer"),
        L.Reshape((1, 1, 1028), name="output"),
    ])  # fmt: skip


def inception(x, c1, c2, c3, c4):
    one = conv(c1, 1, activation="relu")(x)
    three = conv(c2[1], 3, activation="relu")(conv(c2[0], 1, activation="relu")(x))
    five = conv(c3[1], 5, activation="relu")(conv(c3[0], 1, activation="relu")(x))
    pool = conv(c4, 1, activation="relu")(L.MaxPooling2D(3, 1, padding="same")(x))
    return L.concatenate([one, three, five, pool], axis=3)


def googlenet(size, channels, dropout):
    image = keras.Input((size, size, channels))
    x = conv(64, 7, 2, activation="relu")(image)
    x = L.MaxPooling2D(3, 2, padding="same")(x)
    x = conv(64, 1, activation="relu")(x)
    x = conv(192, 3, activation="relu")(x)
    x = L.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, 64, (96, 128), (16, 32), 32)
    x = inception(x, 128, (128, 192), (32, 96), 64)
    x = L.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, 192, (96, 208), (16, 48), 64)
    x = inception(x, 160, (112, 224), (24, 64), 64)
    x = inception(x, 128, (128, 256), (24, 64), 64)
    x = inception(x, 112, (144, 288), (32, 64), 64)
    x = inception(x, 256, (160, 320), (32, 128), 128)
    x = L.MaxPooling2D(3, 2, padding="same")(x)
    x = inception(x, 256, (160, 320), (32, 128), 128)
    x = inception(x, 384, (192, 384), (48, 128), 128)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(10, activation="softmax")(x))


def conv_bn_relu(filters, kernel=3, strides=1):
    return InOrder(model=keras.Sequential(
        [conv(filters, kernel, strides), L.BatchNormalization(), relu()]))  # fmt: skip


class InceptionBlk(keras.Model):
    def __init__(self, filters, strides):
        super().__init__()
        self.c1 = conv_bn_relu(filters, 1, strides)
        self.c2_1 = conv_bn_relu(filters, 1, strides)
        self.c2_2 = conv_bn_relu(filters, 3)
        self.c3_1 = conv_bn_relu(filters, 1, strides)
        self.c3_2 = conv_bn_relu(filters, 5)
        self.p4_1 = L.MaxPooling2D(3, 1, padding="same")
        self.c4_2 = conv_bn_relu(filters, 1, strides)

    def call(self, x, training=None):
        paths = [self.c1(x), self.c2_2(self.c2_1(x)), self.c3_2(self.c3_1(x)),
                 self.c4_2(self.p4_1(x))]  # fmt: skip
        return keras.ops.concatenate(paths, axis=3)


def inception10(dropout):
    first = conv_bn_relu(16)
    blocks = [InceptionBlk(filters, strides) for filters in (16, 32) for strides in (2, 1)]
    return InOrder(c1=first, blocks=keras.Sequential(blocks), p1=L.GlobalAveragePooling2D(),
                   f1=L.Dense(10, activation="softmax"))  # fmt: skip


class ResnetBlock(keras.Model):
    def __init__(self, filters, strides=1, residual_path=False):
        super().__init__()
        self.residual_path = residual_path
        self.c1 = conv(filters, 3, strides, use_bias=False)
        self.b1 = L.BatchNormalization()
        self.a1 = relu()
        self.c2 = conv(filters, 3, use_bias=False)
        self.b2 = L.BatchNormalization()
        if residual_path:
            self.down_c1 = conv(filters, 1, strides, use_bias=False)
            self.down_b1 = L.BatchNormalization()
        self.a2 = relu()

    def call(self, x, training=None):
        y = self.b2(self.c2(self.a1(self.b1(self.c1(x)))))
        return self.a2(y + (self.down_b1(self.down_c1(x)) if self.residual_path else x))


def resnet18(dropout):
    first = {"c1": conv(64, 3, use_bias=False), "b1": L.BatchNormalization(), "a1": relu()}
    blocks = [ResnetBlock(filters, 1 if again or filters == 64 else 2, not again and filters > 64)
              for filters in (64, 128, 256, 512) for again in (False, True)]  # fmt: skip
    return InOrder(
        **first, blocks=keras.Sequential(blocks), p1=L.GlobalAveragePooling2D(),
        f1=L.Dense(10, activation="softmax", kernel_regularizer=keras.regularizers.L2()),
    )  # fmt: skip


class ResBlock(L.Layer):
    def __init__(self, filters, stride=1):
        super().__init__()
        self.conv = conv(filters, 3, stride)
        self.bn1 = L.BatchNormalization()
        self.relu = L.ReLU()
        self.conv2 = conv(filters, 3)
        self.bn2 = L.BatchNormalization()
        self.downsample = conv(filters, 1, stride, "valid") if stride != 1 else None

    def call(self, x, training=None):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv(x)))))
        return keras.ops.relu(L.add([y, self.downsample(x) if self.downsample else x]))


def resnet18_pool(dropout):
    stem = keras.Sequential([conv(64, 3, padding="valid"), L.BatchNormalization(), L.ReLU(),
                             L.MaxPooling2D(2, 1, padding="same")])  # fmt: skip
    layers = {f"layer{i}": keras.Sequential([ResBlock(filters, 2 if i > 1 else 1),
                                             ResBlock(filters)])
              for i, filters in enumerate((64, 128, 256, 512), 1)}  # fmt: skip
    return InOrder(stem=stem, **layers, avgpool=L.GlobalAveragePooling2D(), fc=L.Dense(10))


def built(kind):
    """A subclassed model, once it has seen an image."""

    def build(size, channels, dropout):
        net = kind(dropout)
        net(keras.ops.zeros((1, size, size, channels), dtype=keras.config.floatx()))
        return net

    return build


# torchcnn's name: the network, channels, an even and an odd size, whether it ends in a softmax
NETWORKS = {
    "mlp": (mlp, 1, (28, 27), False),
    "tf_sigmoid_cnn": (sigmoid_cnn, 3, (48, 45), True),
    "tf_baseline": (built(baseline), 3, (32, 31), True),
    "tf_lenet5": (built(lenet5), 3, (32, 35), False),
    "tf_alexnet8": (built(alexnet8), 3, (32, 27), True),
    "tf_alexnet_half": (alexnet_half, 3, (96, 67), True),
    "tf_vgg13": (vgg13, 3, (32, 19), False),
    "tf_vgg16": (built(vgg16), 3, (32, 19), True),
    "tf_nin": (nin, 1, (84, 67), False),
    "tf_nin_dense": (nin_dense, 32, (64, 51), False),
    "tf_googlenet": (googlenet, 1, (48, 33), True),
    "tf_inception10": (built(inception10), 3, (32, 21), True),
    "tf_resnet18": (built(resnet18), 3, (32, 21), True),
    "tf_resnet18_pool": (built(resnet18_pool), 3, (24, 21), False),
}  # fmt: skip
