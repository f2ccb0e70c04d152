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


class WithDropout(keras.Model):
    """Says how it was made, so that it can be saved as a .keras file."""

    def __init__(self, dropout):
        super().__init__()
        self.rate = dropout

    def get_config(self):
        return {"dropout": self.rate}


class Baseline(WithDropout):
    def __init__(self, dropout):
        super().__init__(dropout)
        self.c1 = conv(6, 5)
        self.b1 = L.BatchNormalization()
        self.a1 = L.Activation("relu")
        self.p1 = L.MaxPooling2D(2, 2, padding="same")
        self.d1 = L.Dropout(dropout)
        self.flatten = L.Flatten()
        self.f1 = L.Dense(128, activation="relu")
        self.d2 = L.Dropout(dropout)
        self.f2 = L.Dense(10, activation="softmax")

    def call(self, x, training=None):
        x = self.d1(self.p1(self.a1(self.b1(self.c1(x)))))
        return self.f2(self.d2(self.f1(self.flatten(x))))


class LeNet5(keras.Model):
    def __init__(self):
        super().__init__()
        self.c1 = conv(6, 5, padding="valid", activation="sigmoid")
        self.p1 = L.MaxPooling2D(2, 2)
        self.c2 = conv(16, 5, padding="valid", activation="sigmoid")
        self.p2 = L.MaxPooling2D(2, 2)
        self.flatten = L.Flatten()
        self.f1 = L.Dense(120, activation="sigmoid")
        self.f2 = L.Dense(84, activation="sigmoid")
        self.f3 = L.Dense(10)

    def call(self, x, training=None):
        x = self.p2(self.c2(self.p1(self.c1(x))))
        return self.f3(self.f2(self.f1(self.flatten(x))))


class AlexNet8(WithDropout):
    def __init__(self, dropout):
        super().__init__(dropout)
        self.c1 = conv(96, 3, padding="valid")
        self.b1 = L.BatchNormalization()
        self.a1 = L.Activation("relu")
        self.p1 = L.MaxPooling2D(3, 2)
        self.c2 = conv(256, 3, padding="valid")
        self.b2 = L.BatchNormalization()
        self.a2 = L.Activation("relu")
        self.p2 = L.MaxPooling2D(3, 2)
        self.c3 = conv(384, 3, activation="relu")
        self.c4 = conv(384, 3, activation="relu")
        self.c5 = conv(256, 3, activation="relu")
        self.p3 = L.MaxPooling2D(3, 2)
        self.flatten = L.Flatten()
        self.f1 = L.Dense(2048, activation="relu")
        self.d1 = L.Dropout(dropout and 0.5)
        self.f2 = L.Dense(2048, activation="relu")
        self.d2 = L.Dropout(dropout and 0.5)
        self.f3 = L.Dense(10, activation="softmax")

    def call(self, x, training=None):
        x = self.p1(self.a1(self.b1(self.c1(x))))
        x = self.p2(self.a2(self.b2(self.c2(x))))
        x = self.p3(self.c5(self.c4(self.c3(x))))
        return self.f3(self.d2(self.f2(self.d1(self.f1(self.flatten(x))))))


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


class VGG16(WithDropout):
    """Thirteen times c, b, a; five times p, d; all of them attributes with a number."""

    PLAN = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self, dropout):
        super().__init__(dropout)
        i = 0
        for group, (filters, count) in enumerate(self.PLAN, 1):
            for _ in range(count):
                i += 1
                setattr(self, f"c{i}", conv(filters, 3))
                setattr(self, f"b{i}", L.BatchNormalization())
                setattr(self, f"a{i}", L.Activation("relu"))
            setattr(self, f"p{group}", L.MaxPooling2D(2, 2, padding="same"))
            setattr(self, f"d{group}", L.Dropout(dropout))
        self.flatten = L.Flatten()
        self.f1 = L.Dense(512, activation="relu")
        self.d6 = L.Dropout(dropout)
        self.f2 = L.Dense(512, activation="relu")
        self.d7 = L.Dropout(dropout)
        self.f3 = L.Dense(10, activation="softmax")

    def call(self, x, training=None):
        i = 0
        for group, (_, count) in enumerate(self.PLAN, 1):
            for _ in range(count):
                i += 1
                x = getattr(self, f"a{i}")(getattr(self, f"b{i}")(getattr(self, f"c{i}")(x)))
            x = getattr(self, f"d{group}")(getattr(self, f"p{group}")(x))
        return self.f3(self.d7(self.f2(self.d6(self.f1(self.flatten(x))))))


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


class ConvBNRelu(keras.Model):
    def __init__(self, filters, kernel=3, strides=1):
        super().__init__()
        self.model = keras.Sequential(
            [conv(filters, kernel, strides), L.BatchNormalization(), L.Activation("relu")]
        )

    def call(self, x, training=None):
        return self.model(x)


class InceptionBlk(keras.Model):
    def __init__(self, filters, strides):
        super().__init__()
        self.c1 = ConvBNRelu(filters, 1, strides)
        self.c2_1 = ConvBNRelu(filters, 1, strides)
        self.c2_2 = ConvBNRelu(filters, 3)
        self.c3_1 = ConvBNRelu(filters, 1, strides)
        self.c3_2 = ConvBNRelu(filters, 5)
        self.p4_1 = L.MaxPooling2D(3, 1, padding="same")
        self.c4_2 = ConvBNRelu(filters, 1, strides)

    def call(self, x, training=None):
        paths = [self.c1(x), self.c2_2(self.c2_1(x)), self.c3_2(self.c3_1(x)),
                 self.c4_2(self.p4_1(x))]  # fmt: skip
        return keras.ops.concatenate(paths, axis=3)


class Inception10(keras.Model):
    def __init__(self):
        super().__init__()
        self.c1 = ConvBNRelu(16)
        self.blocks = keras.Sequential()
        for filters in (16, 32):
            for strides in (2, 1):
                self.blocks.add(InceptionBlk(filters, strides))
        self.p1 = L.GlobalAveragePooling2D()
        self.f1 = L.Dense(10, activation="softmax")

    def call(self, x, training=None):
        return self.f1(self.p1(self.blocks(self.c1(x))))


class ResnetBlock(keras.Model):
    def __init__(self, filters, strides=1, residual_path=False):
        super().__init__()
        self.residual_path = residual_path
        self.c1 = conv(filters, 3, strides, use_bias=False)
        self.b1 = L.BatchNormalization()
        self.a1 = L.Activation("relu")
        self.c2 = conv(filters, 3, use_bias=False)
        self.b2 = L.BatchNormalization()
        if residual_path:
            self.down_c1 = conv(filters, 1, strides, use_bias=False)
            self.down_b1 = L.BatchNormalization()
        self.a2 = L.Activation("relu")

    def call(self, x, training=None):
        y = self.b2(self.c2(self.a1(self.b1(self.c1(x)))))
        return self.a2(y + (self.down_b1(self.down_c1(x)) if self.residual_path else x))


class ResNet18(keras.Model):
    def __init__(self):
        super().__init__()
        self.c1 = conv(64, 3, use_bias=False)
        self.b1 = L.BatchNormalization()
        self.a1 = L.Activation("relu")
        self.blocks = keras.Sequential()
        for i, filters in enumerate((64, 128, 256, 512)):
            self.blocks.add(ResnetBlock(filters, 2 if i else 1, bool(i)))
            self.blocks.add(ResnetBlock(filters))
        self.p1 = L.GlobalAveragePooling2D()
        self.f1 = L.Dense(10, activation="softmax", kernel_regularizer=keras.regularizers.L2())

    def call(self, x, training=None):
        return self.f1(self.p1(self.blocks(self.a1(self.b1(self.c1(x))))))


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


class ResNet18Pool(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = keras.Sequential([conv(64, 3, padding="valid"), L.BatchNormalization(),
                                      L.ReLU(), L.MaxPooling2D(2, 1, padding="same")])  # fmt: skip
        self.layer1 = keras.Sequential([ResBlock(64), ResBlock(64)])
        self.layer2 = keras.Sequential([ResBlock(128, 2), ResBlock(128)])
        self.layer3 = keras.Sequential([ResBlock(256, 2), ResBlock(256)])
        self.layer4 = keras.Sequential([ResBlock(512, 2), ResBlock(512)])
        self.avgpool = L.GlobalAveragePooling2D()
        self.fc = L.Dense(10)

    def call(self, x, training=None):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(self.avgpool(x))


def built(kind, *options):
    """A subclassed model, once it has seen an image."""

    def build(size, channels, dropout):
        net = kind(*(dropout if option == "dropout" else option for option in options))
        net(keras.ops.zeros((1, size, size, channels), dtype=keras.config.floatx()))
        return net

    return build


# torchcnn's name: the network, channels, an even and an odd size, whether it ends in a softmax
NETWORKS = {
    "mlp": (mlp, 1, (28, 27), False),
    "tf_sigmoid_cnn": (sigmoid_cnn, 3, (48, 45), True),
    "tf_baseline": (built(Baseline, "dropout"), 3, (32, 31), True),
    "tf_lenet5": (built(LeNet5), 3, (32, 35), False),
    "tf_alexnet8": (built(AlexNet8, "dropout"), 3, (32, 27), True),
    "tf_alexnet_half": (alexnet_half, 3, (96, 67), True),
    "tf_vgg13": (vgg13, 3, (32, 19), False),
    "tf_vgg16": (built(VGG16, "dropout"), 3, (32, 19), True),
    "tf_nin": (nin, 1, (84, 67), False),
    "tf_nin_dense": (nin_dense, 32, (64, 51), False),
    "tf_googlenet": (googlenet, 1, (48, 33), True),
    "tf_inception10": (built(Inception10), 3, (32, 21), True),
    "tf_resnet18": (built(ResNet18), 3, (32, 21), True),
    "tf_resnet18_pool": (built(ResNet18Pool), 3, (24, 21), False),
}  # fmt: skip
