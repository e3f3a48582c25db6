plugins {
    id("com.android.application")
}

android {
    namespace = "{{ package }}"
    compileSdk = {{ versions.sdk }}

    defaultConfig {
        applicationId = "{{ package }}"
        minSdk = {{ versions.min_sdk }} // LiteRT's
        targetSdk = {{ versions.sdk }}
        versionCode = 1
        versionName = "1.0"
    }

    // LiteRT maps the file into memory, so that it must not be compressed.
    androidResources { noCompress += "tflite" }
{% if packed %}

    // Of the pack, Google Play gives each phone the file for its chip. An APK that is built here has no pack in it.
    assetPacks += ":ai_pack"
    bundle {
        deviceTargetingConfig = file("device_targeting_configuration.xml")
        deviceGroup {
            enableSplit = true
            defaultGroup = "other"
        }
    }
    packaging { jniLibs { useLegacyPackaging = true } } // the NPU's own loader reads the vendor's libraries as files
{% endif %}

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation("{{ versions.litert }}")
    implementation("{{ versions.litert_gpu }}") // without this library, LiteRT refuses Accelerator.GPU
    implementation("androidx.activity:activity:{{ versions.activity }}")
    implementation("androidx.camera:camera-camera2:{{ versions.camera }}")
    implementation("androidx.camera:camera-lifecycle:{{ versions.camera }}")
    implementation("androidx.camera:camera-view:{{ versions.camera }}")
    testImplementation("junit:junit:4.13.2")
}
